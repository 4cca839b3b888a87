"""Tests on the published charts; a package, so that a stack ends with the last of them."""
