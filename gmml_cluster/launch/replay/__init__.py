"""`gmml replay`: steps computed again from a checkpoint, in a scratch run, and compared with what was recorded."""
