"""Operations on whole datasets: ingest, convert, verify, describe."""
