"""Profiles of machines, one file each."""

from config.hosts import cpu, hx370

PROFILES = {"cpu": cpu.PROFILE, "hx370": hx370.PROFILE}
"""Profiles by the name in `nodes.<name>.profile`."""
