"""A real Kubernetes API server on this machine, to run the program without the home server."""
