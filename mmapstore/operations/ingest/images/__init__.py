"""Images as samples: folders, tables, and images with annotations."""
