"""Operations on arrays without parameters; some have one form per platform."""
