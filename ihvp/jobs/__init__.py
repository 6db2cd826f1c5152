"""Jobs: what is asked for, the states it goes through, and the store that holds the truth."""
