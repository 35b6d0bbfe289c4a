"""The sample private site of `mdx up`: what a company's intranet is to a company.

It stands behind the gateway and speaks to nobody else; see `mdx.site.serving`.
"""
