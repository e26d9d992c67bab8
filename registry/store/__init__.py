"""The catalog on this machine or server: SQL rows, content-addressed files, the event log.

The store keeps values and knows nothing of torch. sqlalchemy and alembic are imported here and
in ``migrations/`` only; ``import registry`` loads neither.
"""
