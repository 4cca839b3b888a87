"""Commands on a stack besides `pulumi up`."""
