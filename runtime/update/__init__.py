"""Brings a new bundle to a device: fetched, proven by this device, watched while it runs, and else left alone.

    fetch: an address or a path ──► a tar or a folder        prove: the new bundle, run here beside the old one
    update_bundle: the steps and their order                 watch: the live runs while they try it

The layout on the disk is the bundle store's, which live runs read too.
"""
