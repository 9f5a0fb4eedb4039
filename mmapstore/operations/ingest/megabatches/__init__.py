"""Files that hold a dict of fields each: pickles, joblib and .npz."""
