"""What a run left behind, made visible; reads files only."""
