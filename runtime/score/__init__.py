"""This room classifies very many images, on one machine or many, and can be killed at any moment and continued.

Folders, tars and lists come in; a folder of part files, each written as a whole, and a summary go out. It must not know
how a model computes its answer.

    score_request    what was asked for
    chunks           the inputs, walked in a fixed order and cut into chunks: some names, or one tar
    contents         a chunk's images, also from tars;  read_ahead  their decoding, on threads
    remote           the only importer of fsspec: s3:// and the like
    scorer           a chunk becomes part files, unless they are there
    part_files       what a part file holds, and the folder they are in;  parquet  the only importer of pyarrow
    tally            counts, histograms and the summary
    score_images     the run on this machine;  cluster  on many, the only importer of Ray
"""
