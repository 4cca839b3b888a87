"""Commands on a stack besides `pulumi up`: check, compare, render, restore."""
