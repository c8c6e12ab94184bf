"""Many runs, none lost: what a run is, where it is kept, how many are run and tuned."""
