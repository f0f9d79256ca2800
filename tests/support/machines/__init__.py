"""Other machines than this one, how the tests are spread over its cores, and the commands as processes."""
