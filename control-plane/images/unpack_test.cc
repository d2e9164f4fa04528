// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "control-plane/limits.h"

namespace hearth::control {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string path;
  std::string content;
  mode_t type = AE_IFREG;
  mode_t mode = 0644;
  std::string link{};  // A symbolic link's or hard link's target.
  bool hard = false;
  bool sparse = false;  // All but its last byte is a hole.
};

struct Place {
  Place() {
    char path[] = "/tmp/hearth-unpack-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    name = path;
    fs::create_directory(name + "/out");
  }
  ~Place() { fs::remove_all(name); }

  absl::Status Try(const std::vector<Entry>& entries, int filter = ARCHIVE_FILTER_NONE) {
    archive* writer = archive_write_new();
    archive_write_add_filter(writer, filter);
    archive_write_set_format_pax_restricted(writer);
    REQUIRE(archive_write_open_filename(writer, (name + "/a.tar").c_str()) == ARCHIVE_OK);
    for (const Entry& entry : entries) {
      archive_entry* header = archive_entry_new();
      archive_entry_set_pathname(header, entry.path.c_str());
      archive_entry_set_filetype(header, entry.type);
      archive_entry_set_perm(header, entry.mode);
      archive_entry_set_size(header, static_cast<la_int64_t>(entry.content.size()));
      if (entry.sparse) {
        archive_entry_sparse_add_entry(header, static_cast<la_int64_t>(entry.content.size()) - 1,
                                       1);
      }
      if (entry.hard) {
        archive_entry_set_hardlink(header, entry.link.c_str());
      } else if (!entry.link.empty()) {
        archive_entry_set_symlink(header, entry.link.c_str());
      }
      REQUIRE(archive_write_header(writer, header) == ARCHIVE_OK);
      archive_write_data(writer, entry.content.data(), entry.content.size());
      archive_entry_free(header);
    }
    archive_write_close(writer);
    archive_write_free(writer);
    return Unpack(name + "/a.tar", name + "/out", Cancellation());
  }

  std::string Read(const std::string& path) const {
    std::ifstream file(name + "/out/" + path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::string name;
};

bool Refused(const absl::Status& status, const std::string& why) {
  INFO(status);
  return absl::IsInvalidArgument(status) && status.message().find(why) != absl::string_view::npos;
}

}  // namespace

TEST_CASE("unpack: files, folders, modes and links inside come out as they went in") {
  for (const int filter : {ARCHIVE_FILTER_NONE, ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD}) {
    Place place;
    const mode_t before = umask(0077);  // As hearthd's.
    const absl::Status status = place.Try({{"./", "", AE_IFDIR, 0700},
                                           {"./app.py", "print(1)"},
                                           {"bin/run", "#!", AE_IFREG, 0700},
                                           {"lib/", "", AE_IFDIR, 0},
                                           {"lib/up", "", AE_IFLNK, 0777, "../app.py"},
                                           {"lib/same", "", AE_IFREG, 0644, "app.py", true}},
                                          filter);
    umask(before);
    INFO(status);
    CHECK(status.ok());
    CHECK(place.Read("app.py") == "print(1)");
    CHECK(place.Read("lib/up") == "print(1)");
    CHECK(place.Read("lib/same") == "print(1)");
    struct stat info = {};
    REQUIRE(stat((place.name + "/out/bin/run").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0755);
    for (const char* folder : {"/out/bin", "/out/lib"}) {
      REQUIRE(stat((place.name + folder).c_str(), &info) == 0);
      CHECK((info.st_mode & 0777) == 0755);
    }
  }
}

TEST_CASE("unpack: what would leave the folder is refused") {
  CHECK(Refused(Place().Try({{"/etc/passwd", "x"}}), "absolute"));
  CHECK(Refused(Place().Try({{"../x", "x"}}), "'..'"));
  CHECK(Refused(Place().Try({{"a/../../x", "x"}}), "'..'"));
  CHECK(Refused(Place().Try({{"l", "", AE_IFLNK, 0777, "/etc"}}), "leaves"));
  CHECK(Refused(Place().Try({{"a/l", "", AE_IFLNK, 0777, "../../etc"}}), "leaves"));
  CHECK(Refused(Place().Try({{"d/f", "x"}, {"l", "", AE_IFLNK, 0777, "d"}, {"l/g", "x"}}),
                "through a link"));
  CHECK(Refused(Place().Try({{"h", "", AE_IFREG, 0644, "../../etc/passwd", true}}), "'..'"));
  CHECK(Refused(Place().Try({{"l", "", AE_IFLNK, 0777, "a"}, {"h", "", AE_IFREG, 0644, "l", true}}),
                "hard link"));
  CHECK(Refused(Place().Try({{"f", "x"}, {"f/g", "x"}}), "through a link or a file"));
}

TEST_CASE("unpack: a file written over a link replaces the link, not what it points to") {
  Place place;
  CHECK(place.Try({{"f", "old"}, {"l", "", AE_IFLNK, 0777, "f"}, {"l", "new"}}).ok());
  CHECK(place.Read("f") == "old");
  CHECK(place.Read("l") == "new");
}

TEST_CASE("unpack: devices, pipes, no archives and cut archives are refused") {
  CHECK(Refused(Place().Try({{"dev", "", AE_IFCHR}}), "device"));
  CHECK(Refused(Place().Try({{"pipe", "", AE_IFIFO}}), "device"));
  Place place;
  std::ofstream(place.name + "/x") << "this is no archive, but long enough to be looked at";
  CHECK(absl::IsInvalidArgument(Unpack(place.name + "/x", place.name + "/out", Cancellation())));
  CHECK(place.Try({{"a", std::string(100'000, 'x')}}).ok());
  fs::resize_file(place.name + "/a.tar", 50'000);
  CHECK(
      absl::IsInvalidArgument(Unpack(place.name + "/a.tar", place.name + "/out", Cancellation())));
}

TEST_CASE("unpack: a small archive that grows too large is refused on the way") {
  Place place;
  // 300 MB of zeros compress to some kilobytes.
  const std::string zeros(75'000'000, '\0');
  CHECK(Refused(
      place.Try({{"a", zeros}, {"b", zeros}, {"c", zeros}, {"d", zeros}}, ARCHIVE_FILTER_ZSTD),
      "limit"));
}

TEST_CASE("unpack: folders that a path implies are entries, too") {
  // "./" is the cheapest of entries; a file in 99 folders makes 100.
  std::vector<Entry> entries(limits::kMaxArtifactEntries - 100, {"./", "", AE_IFDIR});
  std::string deep = "f";
  for (int i = 0; i < 99; ++i) deep.insert(0, "a/");
  entries.push_back({deep, ""});
  CHECK(Place().Try(entries).ok());
  entries.back().path.insert(0, "a/");
  CHECK(Refused(Place().Try(entries), "entries"));
}

TEST_CASE("unpack: folders count as what they take on the disk") {
  Entry hole{"hole", std::string(limits::kMaxUnpackedBytes - 4096, '\0')};
  hole.sparse = true;
  std::vector<Entry> entries = {hole, {"one", "", AE_IFDIR}};
  CHECK(Place().Try(entries).ok());
  entries.push_back({"two", "", AE_IFDIR});
  CHECK(Refused(Place().Try(entries), "limit"));
}

TEST_CASE("unpack: a cancelled one stops") {
  Place place;
  CHECK(place.Try({{"a", "x"}}).ok());
  Cancellation cancellation;
  cancellation.Cancel();
  CHECK(absl::IsCancelled(Unpack(place.name + "/a.tar", place.name + "/out", cancellation)));
}

}  // namespace hearth::control
