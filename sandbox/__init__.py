"""A local Kubernetes cluster, with simulated nodes or a real one, and Pulumi's engine for it."""
