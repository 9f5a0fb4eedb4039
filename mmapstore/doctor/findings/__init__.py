"""All faults that the doctor finds, by subject matter."""
