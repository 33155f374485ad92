"""What MkDocs asks of us while it builds: generated pages join the written ones, and links are made to fit.

`reference.py` writes the reference, `notebooks.py` shows notebooks, `repository.py` brings in the files
outside of docs that pages link to, so that the same links work in a checkout and on the site.
"""

import notebooks
import reference
import repository
from mkdocs.structure.files import File, InclusionLevel


def on_files(files, config):
    """Adds the pages that no one wrote."""
    pages = {**reference.pages(), **notebooks.pages()}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for uri, source in repository.linked().items():
        is_code = source.suffix in repository.SHOWN_AS_CODE
        given = {"content": repository.as_page(source)} if is_code else {"abs_src_path": str(source)}
        files.append(File.generated(config, uri, inclusion=InclusionLevel.NOT_IN_NAV, **given))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links out of docs lead to the copies on the site; names of the library lead to the reference."""
    del config, files
    text = repository.rewrite_links(markdown, page.file.src_uri)
    return text if page.file.src_uri.startswith("reference/") else reference.link_names(text)
