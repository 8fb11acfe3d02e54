"""Policy as operators write it: files become generations, which are checked, compared, kept and rolled back.

    files         a directory of TOML files, read and checked as hosts will read it
    difference    what one generation says otherwise than another
    generations   every generation there was, in the store
"""
