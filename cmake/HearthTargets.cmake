# SPDX-License-Identifier: Apache-2.0
# The functions every folder's CMakeLists.txt uses. A library links only what its line names, so
# an arrow drawn the wrong way (docs/architecture.md) fails to link or to find its header.

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)

# A static binary takes only what it calls, however many sources share an object.
set(HEARTH_SECTIONS -ffunction-sections -fdata-sections)

# What all of our own code is compiled with. Generated code links hearth_generated instead.
add_library(hearth_options INTERFACE)
target_compile_options(hearth_options INTERFACE -Wall -Wextra -Werror -fno-strict-aliasing)
target_include_directories(hearth_options INTERFACE ${PROJECT_SOURCE_DIR})
target_include_directories(hearth_options SYSTEM INTERFACE ${PROJECT_BINARY_DIR}/proto)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(hearth_options INTERFACE -Wthread-safety)
endif()
if(HEARTH_SANITIZE)
  add_compile_options(-fsanitize=${HEARTH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HEARTH_SANITIZE})
endif()
if(HEARTH_SANITIZE STREQUAL "thread")
  include(Tsan)
endif()
if(HEARTH_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()

# hearth_unity(TARGET): most sources take longer to parse (gRPC, protobuf, abseil, JSON) than to compile;
# with HEARTH_UNITY up to so many of the target's go into one unit.
set(HEARTH_UNITY_BATCH 16)
function(hearth_unity name)
  if(HEARTH_UNITY)
    set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${HEARTH_UNITY_BATCH})
  endif()
endfunction()

# hearth_library(NAME SRCS a.cc ... DEPS target ...)
function(hearth_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    hearth_unity(${name})
    target_compile_options(${name} PRIVATE ${HEARTH_SECTIONS})
    target_link_libraries(${name} PUBLIC hearth_options ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE hearth_options ${ARG_DEPS})
  endif()
endfunction()

# hearth_static_binary(NAME SRCS ... DEPS ...): one file that runs anywhere, for guests and jails.
function(hearth_static_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  set_target_properties(${name} PROPERTIES HEARTH_LITE ON)
  target_link_libraries(${name} PRIVATE hearth_options ${ARG_DEPS})
  if(NOT HEARTH_SANITIZE AND NOT HEARTH_FUZZ)
    target_compile_options(${name} PRIVATE ${HEARTH_SECTIONS})
    target_link_options(${name} PRIVATE -static -Wl,--gc-sections)
    set_target_properties(${name} PROPERTIES RULE_LAUNCH_LINK ${PROJECT_SOURCE_DIR}/cmake/static-link
                          LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/static-link)
  endif()
endfunction()

# Catch2's main, compiled once: it takes longer than most of our tests.
add_library(hearth_test_main STATIC ${PROJECT_SOURCE_DIR}/cmake/catch_main.cc)

# hearth_test(NAME SRCS a_test.cc ... DEPS target ... [LABELS unit]): a Catch2 program; ctest sees
# one test per program. A program that says "SKIPPED: " and passes is skipped; cmake/run-test sees to that.
function(hearth_test name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE hearth_options hearth_test_main ${ARG_DEPS})
  # What ctest starts the program by; add_test prepends it.
  set_property(TARGET ${name} PROPERTY CROSSCOMPILING_EMULATOR "${PROJECT_SOURCE_DIR}/cmake/run-test")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  # Where all is built at once, a test's own code is compiled in two thirds of the time; what it tests is as ever.
  # Not under ThreadSanitizer: what -O0 does not inline of abseil's headers is instrumented in place of abseil's own,
  # which is not, and then its locks are half seen.
  if(HEARTH_UNITY AND NOT HEARTH_SANITIZE MATCHES "thread")
    target_compile_options(${name} PRIVATE -O0)
    target_compile_definitions(${name} PRIVATE CATCH_CONFIG_FAST_COMPILE)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 300 SKIP_RETURN_CODE 77)
  if(HEARTH_SANITIZE STREQUAL "thread")
    set_tests_properties(${name} PROPERTIES ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp halt_on_error=1")
  endif()
endfunction()

# hearth_fuzzer(NAME SRCS ... DEPS ...): a libFuzzer program, built only by the fuzz preset.
function(hearth_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(HEARTH_FUZZ)
    add_executable(${name} ${ARG_SRCS})
    target_link_libraries(${name} PRIVATE hearth_options ${ARG_DEPS})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer,address,undefined)
    if(NOT TARGET fuzzers)
      add_custom_target(fuzzers)
    endif()
    add_dependencies(fuzzers ${name})
  endif()
endfunction()
