"""What the end-to-end measurements are made of: programs, processes, blobs, scenarios, reports."""
