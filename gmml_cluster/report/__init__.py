"""`gmml report`: one page made from run roots. Imports no torch; needs the extra `report`."""
