"""What is done to a house from outside its program: rendered, compared, watched."""
