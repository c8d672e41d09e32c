# Downloads, compares checksums with what the server says it sent, and waits to be stopped.
curl --silent --show-error --output body "http://127.0.0.1:$1/"
echo "curl: $?" > curl.log
until [ -s expected ]; do sleep 0.1; done
if [ "$(sha256sum < body)" = "$(cat expected)" ]; then
    echo "the checksum is right" > verdict
else
    echo "the checksum is wrong" > verdict
fi
exec sleep 1000
