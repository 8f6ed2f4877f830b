"""`Client` and `AsyncClient` of inference servers: the Open Inference Protocol over REST, with binary tensors.

What is said (requests, answers, retries, deadlines) is in `conversation.py`, without I/O; the two clients carry it.
"""

from tidemill.client.carriers import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
