"""Pictures, drawings, videos and data sets that the tests make."""
