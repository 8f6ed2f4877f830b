"""gRPC: the Open Inference Protocol service, with Triton's extensions, health and reflection, over HTTP/2 streams."""
