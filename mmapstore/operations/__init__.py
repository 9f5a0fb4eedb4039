"""What is done to whole datasets: ingest, describe."""
