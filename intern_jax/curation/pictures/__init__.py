"""What is known of a picture after one look: facts, issues, and what tells its near-duplicates."""
