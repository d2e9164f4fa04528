// SPDX-License-Identifier: Apache-2.0
#include "cli/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <map>

#include "cli/failure.h"
#include "cli/testing/fake_hearthd.h"

namespace hearth::cli {
namespace {

void Put(const std::string& path, const std::string& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Unpacked {
  std::string bytes;
  std::string link;
  int permissions = 0;
  time_t time = 0;
  int64_t owner = 0;
};

std::map<std::string, Unpacked> Unpack(const PackedFolder& folder) {
  std::map<std::string, Unpacked> entries;
  archive* reader = archive_read_new();
  archive_read_support_format_tar(reader);
  REQUIRE(archive_read_open_fd(reader, folder.file.get(), 65536) == ARCHIVE_OK);
  archive_entry* entry = nullptr;
  while (archive_read_next_header(reader, &entry) == ARCHIVE_OK) {
    Unpacked& unpacked = entries[archive_entry_pathname(entry)];
    unpacked.permissions = archive_entry_perm(entry);
    unpacked.time = archive_entry_mtime(entry);
    unpacked.owner = archive_entry_uid(entry);
    if (const char* link = archive_entry_symlink(entry)) unpacked.link = link;
    unpacked.bytes.resize(static_cast<size_t>(archive_entry_size(entry)));
    archive_read_data(reader, unpacked.bytes.data(), unpacked.bytes.size());
  }
  archive_read_free(reader);
  return entries;
}

std::string FailureOf(const std::string& directory) {
  try {
    PackFolder(directory);
  } catch (const CliError& error) {
    return error.failure().message;
  }
  return "";
}

TEST_CASE("pack: files, folders, links and executables come back") {
  TemporaryFolder folder;
  Put(folder / "app.py", "print(1)\n");
  Put(folder / "bin/tool", "#!/bin/sh\n");
  chmod((folder / "bin/tool").c_str(), 0700);
  Put(folder / "empty", "");
  Put(folder / "\xc3\xa4\xff name", "x");
  std::filesystem::create_symlink("app.py", folder / "link");
  std::filesystem::create_symlink("no/such/file", folder / "dangling");
  std::filesystem::create_directory(folder / "hollow");
  auto entries = Unpack(PackFolder(folder.path));
  CHECK(entries.size() == 8);
  CHECK(entries["app.py"].bytes == "print(1)\n");
  CHECK(entries["app.py"].permissions == 0644);
  CHECK(entries["bin/tool"].permissions == 0755);
  CHECK(entries["link"].link == "app.py");
  CHECK(entries["dangling"].link == "no/such/file");
  CHECK(entries.count("hollow/") == 1);
  CHECK(entries["\xc3\xa4\xff name"].bytes == "x");
  CHECK(entries["app.py"].time == 0);
  CHECK(entries["app.py"].owner == 0);
}

TEST_CASE("pack: the same content gives the same bytes, whatever its times, owners and order") {
  TemporaryFolder one;
  TemporaryFolder two;
  for (const char* name : {"b", "a", "c/d", "c-d"}) Put(one / name, name);
  for (const char* name : {"c-d", "c/d", "a", "b"}) Put(two / name, name);
  const timeval times[2] = {{1000, 0}, {2000, 0}};
  utimes((two / "a").c_str(), times);
  chmod((two / "b").c_str(), 0600);
  const PackedFolder first = PackFolder(one.path);
  const PackedFolder second = PackFolder(two.path);
  CHECK(first.digest == second.digest);
  CHECK(first.size_bytes == second.size_bytes);
  CHECK(first.digest.size() == 7 + 64);
  Put(two / "a", "other");
  CHECK(PackFolder(two.path).digest != first.digest);
}

TEST_CASE("pack: version control, caches and hearth.json stay out") {
  TemporaryFolder folder;
  Put(folder / "app.py", "x");
  Put(folder / "hearth.json", "{}");
  Put(folder / ".git/config", "x");
  Put(folder / "lib/__pycache__/m.pyc", "x");
  Put(folder / "lib/hearth.json", "data of the function's");
  auto entries = Unpack(PackFolder(folder.path));
  CHECK(entries.count("lib/hearth.json") == 1);
  CHECK(entries.size() == 3);
}

TEST_CASE("pack: a big file is packed whole, and progress is told") {
  TemporaryFolder folder;
  std::string big(9'000'001, 'x');
  for (size_t i = 0; i < big.size(); i += 997) big[i] = static_cast<char>(i);
  Put(folder / "big", big);
  int64_t last = 0;
  const PackedFolder packed = PackFolder(folder.path, [&](int64_t bytes) {
    CHECK(bytes > last);
    last = bytes;
  });
  CHECK(last == packed.size_bytes);
  CHECK(Unpack(packed)["big"].bytes == big);
}

TEST_CASE("pack: what cannot be deployed is named") {
  TemporaryFolder folder;
  CHECK(FailureOf(folder / "none").find("cannot find the folder") == 0);
  CHECK(FailureOf(folder.path).find("holds nothing to deploy") != std::string::npos);
  Put(folder / "file", "x");
  CHECK(FailureOf(folder / "file").find("is not a folder") != std::string::npos);
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(FailureOf(folder.path).find("pipe is neither a file, a folder nor a symbolic link") !=
        std::string::npos);
}

TEST_CASE("pack: a full disk is told with the folder that is full") {
  TemporaryFolder folder;
  Put(folder / "file", "x");
  setenv("TMPDIR", "/nonexistent-folder", 1);
  const std::string message = FailureOf(folder.path);
  unsetenv("TMPDIR");
  CHECK(message.find("cannot make a temporary file in /nonexistent-folder") == 0);
}

}  // namespace
}  // namespace hearth::cli
