"""Errors, messages, files read and written safely, and tables as text. Imports no other folder of ours."""
