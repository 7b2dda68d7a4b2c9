"""Nodes of one job pass blocks of a pack on to each other, so that shared storage is read about once in all.

:mod:`.peer_group` is what a copier uses. It serves this node's blocks (:mod:`.block_server`), and fetches blocks from
each other node (:mod:`.block_client`); :mod:`.protocol` is what the two agree on.
"""
