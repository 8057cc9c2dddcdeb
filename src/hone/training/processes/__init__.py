"""The processes of a run: started, met, watched, stopped. Does not know what they compute."""
