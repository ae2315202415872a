"""Operations on arrays with a form per platform; no parameters."""
