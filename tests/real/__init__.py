"""Tests of the cluster with a real node; a package, so that it ends with the last of them."""
