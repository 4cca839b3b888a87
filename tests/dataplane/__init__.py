"""Tests of the running house; a package, so that it ends with the last of them."""
