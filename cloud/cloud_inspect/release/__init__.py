"""Releases: model packages signed, published as a TUF repository, revoked, carried to devices.

`layout` what lies where · `store` the place · `keys` who signs · `repository` what is there, verified, and what it
shall become · `staging` a change that waits for signatures · `changes` releases, revocations · `roles` new keys and
products · `publish` makes it real · `verify` `export` `serve` `announce` for those who read.
"""
