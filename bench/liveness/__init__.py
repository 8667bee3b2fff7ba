"""The proof that a slow client is never cut off and a dead one is always found.

network.py    a server's host and the hosts of its clients: namespaces, cables, and their troubles
peer.py       one TCP client, told step by step what to do; a process of its own
crowd.py      a thousand clients that leave without a word, or never ask; one process
server.py     bootserve, or nginx as the control
watcher.py    what the server's kernel says of every connection, sampled
scenarios.py  who does what, and how it must end
stage.py      plays a scenario
table.py      the results
"""
