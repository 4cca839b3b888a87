"""A cluster with a real node: pods in containers, on a home network of network namespaces."""
