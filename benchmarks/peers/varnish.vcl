# Varnish with its built-in rules; storage, threads and listening address are on its command line.
vcl 4.1;

backend origin {
    .host = "127.0.0.1";
    .port = "@ORIGIN@";
}
