"""What a machine gets: assets, machines, profiles and iPXE scripts. Knows no network."""
