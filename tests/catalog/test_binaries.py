from __future__ import annotations

from pathlib import Path

import pytest

from bootserve.catalog import binaries
from bootserve.catalog.assets import Assets
from bootserve.catalog.binaries import advice, available, locate
from tests.conftest import Unprivileged


@pytest.fixture(autouse=True)
def _no_distribution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "_DISTRIBUTIONS", (tmp_path / "distribution",))


def _put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(folder))
    return folder


def _found(assets: Assets) -> dict[str, str]:
    return {binary.kind.name: binary.where for binary in available(assets)}


@pytest.mark.parametrize(
    ("name", "served_as"),
    [
        ("undionly.kpxe", "undionly.kpxe"),
        ("ipxe-x86_64.efi", "ipxe.efi"),
        ("ipxe-snponly-x86_64.efi", "snponly.efi"),
        ("arm64-efi/snponly.efi", "snponly-arm64.efi"),
        ("arm64-efi/ipxe.efi", "ipxe-arm64.efi"),
    ],
)
def test_a_binary_of_a_distribution_is_served_under_the_name_that_firmware_is_told(
    tmp_path: Path, name: str, served_as: str
) -> None:
    folder = _put(tmp_path / "distribution", name)
    assets = Assets([tmp_path / "root"], locate())
    assert _found(assets) == {served_as: str(folder / name)}
    with assets.open_now(served_as) as asset:
        assert asset.read_blocking(1000) == str(folder).encode()


def test_ones_own_folder_goes_before_the_distribution_and_a_root_before_both(
    tmp_path: Path,
) -> None:
    names = ("undionly.kpxe", "ipxe.efi", "snponly.efi")
    _put(tmp_path / "distribution", *names)
    mine = _put(tmp_path / "mine", *names[:2])
    root = _put(tmp_path / "root", *names[:1])
    assert _found(Assets([root], locate([tmp_path / "none", mine]))) == {
        "undionly.kpxe": "undionly.kpxe",
        "ipxe.efi": str(mine / "ipxe.efi"),
        "snponly.efi": str(tmp_path / "distribution/snponly.efi"),
    }


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "no iPXE binary"),
        (("ipxe.efi",), "no undionly.kpxe, so BIOS machines cannot start"),
        (("undionly.kpxe",), "no snponly.efi or ipxe.efi, so UEFI machines cannot start"),
    ],
)
def test_what_is_missing_is_told_with_the_package_that_has_it(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    sentence = advice(available(Assets([_put(tmp_path / "root", *names)])))
    assert sentence is not None
    assert sentence.startswith(says)
    assert "Debian, Ubuntu: ipxe" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("efi", ["ipxe.efi", "snponly.efi"])
def test_no_advice_where_nothing_is_missing(tmp_path: Path, efi: str) -> None:
    root = _put(tmp_path / "root", "undionly.kpxe", efi)
    assert advice(available(Assets([root]))) is None


def test_a_folder_that_the_server_cannot_reach_has_none(
    public_dir: Path, unprivileged: Unprivileged
) -> None:
    _put(public_dir / "closed/inside", "undionly.kpxe")
    (public_dir / "closed").chmod(0)
    try:
        done = unprivileged(
            """
from bootserve.catalog import binaries
binaries._DISTRIBUTIONS = ()
folder = Path(sys.argv[1])
found = binaries.locate([folder])
print(found, binaries.available(Assets([folder], found)))
""",
            public_dir / "closed/inside",
        )
    finally:
        (public_dir / "closed").chmod(0o700)
    assert done.stderr == ""
    assert done.stdout == "{} []\n"
