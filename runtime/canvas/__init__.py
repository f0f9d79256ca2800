"""This room draws text, bars and pictures on pictures: for a window, a recording, a sheet or the digits' page.

A BGR picture and what is to be said come in; the same picture with it goes out. The room must not know where pictures
come from or where they are shown.
"""
