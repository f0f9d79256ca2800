from pathlib import Path

import pytest
from support.data.image_folders import add, by_label, relative

from hybrid_edge.runtime.errors import DataError
from hybrid_edge.train.data import DataSet, scan

pytestmark = pytest.mark.usefixtures("own_cache")

CLASSES = {"1.jpg": "cat", "2.jpg": "cat", "3.jpg": "dog", "4.png": "dog"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    add(tmp_path / "images", *CLASSES)
    return tmp_path / "images"


def labelled(images: Path, text: str | bytes, **more: Path) -> DataSet:
    table = images.parent / "labels.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return scan(images, labels=table, **more)


def answers(found: DataSet) -> dict[str, str]:
    return {image.path.name: image.label for image in found.train + found.validation}


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("", "{file},{label}"),
        ("image,label", "{file},{label}"),
        ("\ufefffilename,class", '"{file}","{label}"'),
        ("Label;File Name", "{label};{file}"),
        ("path\tcategory", "{file}\t{label}"),
        ("sep=;\npath;category", "{file};{label}"),
        ("id,breed", "{stem},{label}"),  # Kaggle's dogs
        ("id,filename,size,label", "7,{file},3,{label}"),
        ("id,photo,label", "{other},{file},{label}"),  # the row's number, which another image has for its name
        ("class id,filepaths,labels,data set", "5,{file},{label},birds"),  # a column of another meaning
        ("whatever,that", "{file},{label}"),
        ("image_id, cat, dog", "{stem}, {cat}, {dog}"),  # Kaggle's plants, Roboflow's _classes.csv
        ("path,label", "images/{file},{label}"),
        ("path,label", "images\\{file},{label}"),
        ("path,label", "/home/bob/set/images/{file},{label}"),
        ("path,label", "./{file} , {label} "),
    ],
)
def test_a_table_is_read_in_the_shapes_that_people_have(images: Path, head: str, row: str) -> None:
    facts = [
        {
            "file": f,
            "stem": f[0],
            "other": 5 - int(f[0]),
            "label": label,
            "cat": int(label == "cat"),
            "dog": int(label == "dog"),
        }
        for f, label in CLASSES.items()
    ]
    found = labelled(images, "\r\n".join([*filter(None, [head]), *(row.format(**fact) for fact in facts), ""]))
    assert answers(found) == CLASSES
    assert (found.labels, found.notes) == (("cat", "dog"), ())


def test_a_table_of_excel_in_utf16_and_names_in_any_form_of_unicode_are_read(images: Path) -> None:
    (images / "1.jpg").rename(images / "cafe\u0301.jpg")
    text = "file\tlabel\ncaf\u00e9.jpg\ttea\u0301\n2.jpg\tte\u00e1\n3.jpg\tdog\n4.png\tdog\n"
    assert labelled(images, text.encode("utf-16")).labels == ("dog", "te\u00e1")


@pytest.mark.parametrize(
    ("head", "train", "validation"),
    [("split", "Training", "valid"), ("is_valid", "False", "True"), ("Set", "train", "dev")],
)
def test_a_column_of_splits_is_followed_and_test_is_left_out(
    images: Path, head: str, train: str, validation: str
) -> None:
    add(images, "5.jpg")
    rows = f"file,label,{head}\n1.jpg,cat,{train}\n2.jpg,cat,{validation}\n3.jpg,dog,{train}\n4.png,dog,{validation}\n"
    found = labelled(images, rows + "5.jpg,dog,test\n" * (head == "split"))
    assert [image.path.name for image in found.train] == ["1.jpg", "3.jpg"]
    assert [image.path.name for image in found.validation] == ["2.jpg", "4.png"]
    what = "1 rows of the test split" if head == "split" else "1 images in no row"
    assert found.notes == (f"{images.parent}/labels.csv: left out: {what}",)


def test_validation_images_may_be_in_a_table_or_in_class_folders_of_their_own(images: Path) -> None:
    valid = images.parent / "valid"
    add(valid, "7.jpg", "8.jpg")
    (valid / "_classes.csv").write_text("filename, cat, dog\n7.jpg, 1, 0\n8.jpg, 0, 1\n")
    add(images.parent / "apart", "cat/9.jpg", "dog/9.jpg")
    text = "filename, cat, dog\n1.jpg, 1, 0\n3.jpg, 0, 1\n"
    assert scan(valid, labels=valid / "_classes.csv", val=images.parent / "apart").left_out == {}
    for val, names in ((valid / "_classes.csv", ["7.jpg", "8.jpg"]), (images.parent / "apart", ["9.jpg", "9.jpg"])):
        found = labelled(images, text, val=val)
        assert [image.path.name for image in found.validation] == names
        assert by_label(found.train) == {"cat": 1, "dog": 1}
    (valid / "_classes.csv").write_text("file,label,split\n7.jpg,cat,test\n8.jpg,dog,test\n")
    with pytest.raises(DataError, match=r"_classes\.csv: expected images to validate on, found rows of the test split"):
        labelled(images, text, val=valid / "_classes.csv")
    with pytest.raises(DataError, match=r"found .*labels\.csv too; leave out --val, or .* rows of that split$"):
        labelled(images, "file,label,split\n1.jpg,cat,train\n3.jpg,dog,train\n2.jpg,cat,val\n", val=valid)


@pytest.mark.parametrize("place", ["", "train"])  # IMAGES
def test_without_a_column_of_splits_those_of_the_folders_are_followed(tmp_path: Path, place: str) -> None:
    names = [f"{split}/{number}.jpg" for split in ("train", "val", "test") for number in range(2)]
    add(tmp_path, *names)
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{name},{['cat', 'dog'][index % 2]}\n" for index, name in enumerate(names)))
    found = scan(tmp_path / place, labels=table)
    assert [relative(images, tmp_path) for images in (found.train, found.validation)] == [names[:2], names[2:4]]
    assert found.notes == (f"{table}: left out: 2 rows of the test split",)


def test_a_folder_called_train_beside_classes_is_no_split_of_a_table(tmp_path: Path) -> None:
    names = [f"{label}/{number}.jpg" for label in ("car", "train") for number in range(2)]
    add(tmp_path, *names)
    (tmp_path / "labels.csv").write_text("".join(f"{name},{name.partition('/')[0]}\n" for name in names))
    assert by_label(scan(tmp_path, labels=tmp_path / "labels.csv").train) == {"car": 1, "train": 1}


def test_a_row_of_another_split_names_no_image_of_this_one(images: Path) -> None:
    valid = images.rename(images.with_name("valid"))
    rows = (
        "/elsewhere/train/1.jpg,dog\ntrain/3.jpg,cat\n/elsewhere/val/2.jpg,cat\nset/4.png,dog\n1.jpg,cat\n3.jpg,dog\n"
    )
    assert answers(labelled(valid, rows)) == CLASSES


def test_what_rows_and_images_are_left_out_is_counted_in_one_line(images: Path) -> None:
    add(images, "5.jpg")
    (images / "notes.txt").write_text("text")
    found = labelled(images, "file,label\n1.jpg,cat\n1.jpg,cat\n2.jpg,\n3.jpg,dog\n5.jpg,cat\nx.jpg,dog\ny.jpg,dog\n")
    (note,) = found.notes
    assert note.partition(": ")[2] == (
        "left out: 2 rows of images that are not there (the first is 'x.jpg' in line 7), 1 rows without a class, "
        "1 repeated rows, 2 images in no row"
    )
    assert found.left_out == {".txt": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected rows of an image and its class, as in a/1.jpg,cat; found none"),
        ("1.jpg\n2.jpg\n", "found one column in line 1"),
        ("file,label\n1.jpg,\n", "no row has an image and a class"),
        (
            "file,label\nx.jpg,cat\n",
            "none of 1 images is there, the first is 'x.jpg' in line 2; paths are looked for in",
        ),
        (
            "file,label\n1.jpg,cat\n3.jpg,dog\n1.jpg,dog\n",
            r"line 4: .*1\.jpg is 'dog' .*'cat' \(train\) in line 2; keep",
        ),
        ("file,label\n5,cat\n", "line 2: '5' could be .*a/5.jpg or .*b/5.jpg; write the image's path"),
        ("file,cat,dog\n1.jpg,1,1\n", "line 2: expected one class for each image, found cat, dog"),
        ("file,label,split\n1.jpg,cat,train\n2.jpg,cat,Public\n", "line 3: expected a split .* found 'Public'"),
        ("file,size,weight\n1.jpg,2.5,3.5\n", "found file, size, weight: name the columns so in the first row"),
        ('file,label\n1.jpg,"a\nb"\n', "line 3: .*can't be a class"),
        ("file,label\n1.jpg,cat\n2.jpg,cat\n", "expected two classes or more, found one: 'cat'"),
        ("file,label,split\n1.jpg,cat,val\n3.jpg,dog,val\n", "found none to train on"),
        (b"file,label\n1.jpg,caf\xe9\n", "expected UTF-8 text; save the table as CSV in UTF-8"),
        ('file,label\n"1.jpg,cat\n' + "x" * 200_000, "no CSV: field larger than field limit"),
    ],
)
def test_a_table_that_means_nothing_or_two_things_is_refused_with_the_line(
    images: Path, text: str | bytes, message: str
) -> None:
    add(images, "a/5.jpg", "b/5.jpg")
    with pytest.raises(DataError, match=message):
        labelled(images, text)


def test_a_table_or_a_folder_that_is_not_there_is_named(images: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: can't be read: No such file"):
        scan(images, labels=images / "nowhere.csv")
    with pytest.raises(DataError, match="nowhere: expected the folder of the images"):
        labelled(images / "nowhere", "a.jpg,b")
