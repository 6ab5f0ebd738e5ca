"""The peers as modules of torch, one file each."""
