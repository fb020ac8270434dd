"""Allocators, one file each: subclasses of ``lorakit.searching.allocator.Allocator``."""
