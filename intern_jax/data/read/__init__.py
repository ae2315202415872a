"""Pictures, annotations, lists and archives as files hold them, read with care."""
