"""What runs in the peers' own environments: scripts without an import of ours."""
