"""The trace of a test build: every key and nonce that anything was sealed under, by either engine or the daemon.

``trace.c`` and ``cipher.py`` write it, each around the one cipher of its language, and nothing in the product knows of
them. ``build.py`` makes an extension with the former, ``daemon/`` puts both into a daemon, ``entry.py`` has the layout
and compares a trace with what was seen on the wire.
"""
