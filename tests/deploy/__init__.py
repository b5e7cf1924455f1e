"""The files of deploy/, held to the program and run as the systems they are for would run them."""
