"""What the commands do, from configs and files to results: each is called by the function of the API of its name."""
