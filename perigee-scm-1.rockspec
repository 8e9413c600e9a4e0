rockspec_format = "3.0"
package = "perigee"
version = "scm-1"

source = {
  url = "git+file://.",
}

description = {
  summary = "Vector search: graphs, exact search and filters, on CPUs and GPUs",
  detailed = [[
    A C11 engine with CUDA kernels behind one Lua module. Builds CAGRA graphs, exports them to HNSW
    files that hnswlib loads, and searches exactly or by graph, with filters.
  ]],
  license = "MIT",
  labels = { "search", "numeric" },
}

dependencies = {
  "lua >= 5.4, < 5.5",
}

build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "Release",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    PERI_LUADIR = "$(LUADIR)",
    PERI_LIBDIR = "$(LIBDIR)",
    PERI_BINDIR = "$(BINDIR)",
    PERI_INCDIR = "$(PREFIX)/include",
    PERI_TESTS = "OFF",
  },
}

test = {
  type = "command",
  command = "scripts/test",
}
