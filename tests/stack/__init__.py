"""Tests of the stack on a real cluster; a package, so that it ends with the last of them."""
